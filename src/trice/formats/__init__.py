"""How questions and calls are written as text, and how calls are parsed from it."""
