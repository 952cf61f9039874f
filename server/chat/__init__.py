"""A trained model behind OpenAI's HTTP interface (platform.openai.com/docs/api-reference)."""
