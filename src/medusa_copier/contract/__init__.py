"""The messages: parameters of each action, responses, and the JSON Schema made from both."""
