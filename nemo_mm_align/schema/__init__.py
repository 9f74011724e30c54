"""What the data are: attribute schemas, records, images, chat templates, and prompts as token ids."""
