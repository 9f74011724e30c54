"""Where the miniature's questions come from: easy-VQA, drawn bar charts and text instructions."""
