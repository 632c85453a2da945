"""Tables and claims of the paper on Predicted Step Descent."""
