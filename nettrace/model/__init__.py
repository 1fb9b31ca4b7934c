"""The vocabulary: frozen types that every other part speaks in. Imports nothing of nettrace but itself."""
