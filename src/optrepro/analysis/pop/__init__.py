"""Tables and claims of the paper on POP."""
