"""The fast ways of a frozen part, and one plain way back."""
