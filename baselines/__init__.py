"""The models that the two papers compare with. Imports layers only."""
