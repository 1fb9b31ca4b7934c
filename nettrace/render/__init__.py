"""Turn a verdict into text for people or JSON for scripts. Pure: what to print to, and in colour, others decide."""
