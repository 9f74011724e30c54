"""Reading a judge's reply: JSON as asked for, near-JSON, and ratings in running text."""
