"""How informative and coherent the pictures are, with every control."""
