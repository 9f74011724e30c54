"""The judges that ask somebody: Gemini through two clients, services with OpenAI's protocol, a person."""
