"""The wire contract: parameters of each action, responses, and the JSON Schema generated from both."""
