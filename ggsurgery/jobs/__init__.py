"""The long tasks, one frozen request class each: its options, defaults, bounds and checks.

    request = PerplexityRequest(file="model.gguf", text="test.txt", windows=20)
    for warning in request.check():
        print(warning)
    print(request.run().value)

`check` refuses what cannot work and returns warnings; `run` does the work in a child process.
The command line makes its options from these classes, and a recipe section is the part of a
request that does not name models.
"""
