"""What a folder of videos, masks or annotations holds, and everything that is wrong in it."""
