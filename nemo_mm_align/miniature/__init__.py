"""The miniature world: real and drawn images, questions with known answers, and a judge that knows them."""
