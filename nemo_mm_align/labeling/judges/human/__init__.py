"""Labels by hand: a page on this machine that asks a person what a judge would be asked."""
