"""The kinds of studies: each says what it may be told, which runs it has, which data it reads, and how to tell it."""
