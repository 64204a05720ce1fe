// Renders chat templates with Go's own text/template, given what Ollama documents that a
// TEMPLATE sees: .System .Messages .Tools .Think .IsThinkSet, or .Prompt and .Suffix.
// Input: a JSON list of jobs on standard input; output: a JSON list of results.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

type call struct {
	ID       string `json:"id"`
	Function struct {
		Name      string         `json:"name"`
		Arguments map[string]any `json:"arguments"`
	} `json:"function"`
}

type message struct {
	Role       string `json:"role"`
	Content    string `json:"content"`
	Thinking   string `json:"thinking"`
	ToolCalls  []call `json:"tool_calls"`
	ToolName   string `json:"tool_name"`
	ToolCallID string `json:"tool_call_id"`
}

// The fields of a tool in the order in which Ollama's types list them.
type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Parameters  struct {
			Type       string                    `json:"type"`
			Required   []string                  `json:"required,omitempty"`
			Properties map[string]map[string]any `json:"properties"`
		} `json:"parameters"`
	} `json:"function"`
}

type job struct {
	Template string    `json:"template"`
	Messages []message `json:"messages"`
	Tools    []tool    `json:"tools"`
	Think    *bool     `json:"think"`
	Prompt   string    `json:"prompt"`
	Suffix   string    `json:"suffix"`
}

type result struct {
	Text   string   `json:"text"`
	Error  string   `json:"error"`
	Fields []string `json:"fields"`
	Open   string   `json:"open"`
	Close  string   `json:"close"`
}

// Ollama joins messages of one role that follow each other, results of tools excepted.
func joined(messages []message) ([]message, string) {
	out, system := []message{}, []string{}
	for _, m := range messages {
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if n := len(out); n > 0 && out[n-1].Role == m.Role && m.Role != "tool" {
			out[n-1].Content += "\n\n" + m.Content
			continue
		}
		out = append(out, m)
	}
	return out, strings.Join(system, "\n\n")
}

// Every node of a tree with the nodes above it.
func visit(node parse.Node, above []parse.Node, see func(parse.Node, []parse.Node)) {
	see(node, above)
	below := append(append([]parse.Node{}, above...), node)
	lists := func(pipe *parse.PipeNode, nodes ...*parse.ListNode) {
		if pipe != nil {
			visit(pipe, below, see)
		}
		for _, n := range nodes {
			if n != nil {
				visit(n, below, see)
			}
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, c := range n.Nodes {
			visit(c, below, see)
		}
	case *parse.ActionNode:
		lists(n.Pipe)
	case *parse.IfNode:
		lists(n.Pipe, n.List, n.ElseList)
	case *parse.RangeNode:
		lists(n.Pipe, n.List, n.ElseList)
	case *parse.WithNode:
		lists(n.Pipe, n.List, n.ElseList)
	case *parse.TemplateNode:
		lists(n.Pipe)
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			visit(c, below, see)
		}
	case *parse.CommandNode:
		for _, a := range n.Args {
			visit(a, below, see)
		}
	}
}

func over(r *parse.RangeNode, field string) bool {
	found := false
	visit(r.Pipe, nil, func(n parse.Node, _ []parse.Node) {
		if f, ok := n.(*parse.FieldNode); ok && f.Ident[0] == field {
			found = true
		}
	})
	return found
}

func text(node parse.Node) (string, bool) {
	t, ok := node.(*parse.TextNode)
	if !ok {
		return "", false
	}
	return strings.TrimSpace(string(t.Text)), true
}

// The names a template uses, and the marks around .Thinking within a range over .Messages.
func look(root parse.Node, r *result) {
	names := map[string]bool{}
	visit(root, nil, func(node parse.Node, above []parse.Node) {
		switch n := node.(type) {
		case *parse.VariableNode:
			for _, name := range n.Ident {
				names[strings.ToLower(name)] = true
			}
		case *parse.FieldNode:
			for _, name := range n.Ident {
				names[strings.ToLower(name)] = true
			}
			if n.Ident[0] != "Thinking" {
				return
			}
			inside := false
			var list *parse.ListNode
			for i := len(above) - 1; i >= 0; i-- {
				if l, ok := above[i].(*parse.ListNode); ok && list == nil {
					list = l
				}
				if rn, ok := above[i].(*parse.RangeNode); ok {
					inside = over(rn, "Messages")
					break
				}
			}
			if inside && list != nil {
				if s, ok := text(list.Nodes[0]); ok {
					r.Open = s
				}
				if s, ok := text(list.Nodes[len(list.Nodes)-1]); ok {
					r.Close = s
				}
			}
		}
	})
	for name := range names {
		r.Fields = append(r.Fields, name)
	}
}

func run(j job) (r result) {
	r.Fields = []string{}
	functions := template.FuncMap{"json": func(v any) string {
		b, _ := json.Marshal(v)
		return string(b)
	}}
	t, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(j.Template)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	look(t.Tree.Root, &r)
	think := j.Think != nil && *j.Think
	data := map[string]any{"Response": "", "Think": think, "IsThinkSet": j.Think != nil}
	if j.Prompt != "" {
		data["Prompt"], data["Suffix"] = j.Prompt, j.Suffix
	} else {
		messages, system := joined(j.Messages)
		data["System"], data["Messages"], data["Tools"] = system, messages, j.Tools
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		r.Error = err.Error()
	}
	r.Text = b.String()
	return r
}

func main() {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	results := make([]result, len(jobs))
	for i, j := range jobs {
		results[i] = run(j)
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
