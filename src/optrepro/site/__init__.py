"""The site: every exhibit with its verdicts and numbers, the claims, the choices, guides and references."""
