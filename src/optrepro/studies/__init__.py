"""What a study of each kind may say: typed models, checked in full before anything runs."""
