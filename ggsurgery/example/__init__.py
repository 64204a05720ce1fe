"""A folder to try every command of the README in: a model, its F16 form, texts, questions."""
