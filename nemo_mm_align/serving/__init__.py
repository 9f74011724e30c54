"""A model on its way to people: requests in OpenAI's form, answered by the decoding session of the house."""
