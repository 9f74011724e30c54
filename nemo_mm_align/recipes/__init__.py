"""Recipes, one file each: what a training method is. `registry` finds them; nothing else names one."""
