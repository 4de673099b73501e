"""Next steps that a small model writes after right beginnings, graded by the verifier: errors as
models make them, and right steps in a model's words."""
