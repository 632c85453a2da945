"""The kinds of studies. Each kind defines its settings, its runs, the data that it reads, and texts for captions."""
