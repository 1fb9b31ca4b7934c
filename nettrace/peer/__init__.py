"""Another host of the same question: nettrace there, spoken to over ssh, and both halves made one."""
