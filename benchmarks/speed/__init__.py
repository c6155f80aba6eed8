"""How fast TextGym is beside what people use, as ratios within one run: see the README here."""
