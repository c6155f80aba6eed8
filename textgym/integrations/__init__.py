"""TextGym beside other libraries' trainers: its tasks and judges handed to them."""
