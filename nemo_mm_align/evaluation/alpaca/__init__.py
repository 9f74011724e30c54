"""AlpacaEval 2: its files, its question to the judge, its preferences and its regression."""
