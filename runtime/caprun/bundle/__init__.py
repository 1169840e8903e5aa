"""The bundle: manifest, vocabulary and confidence; reading, checking and writing a bundle directory."""
