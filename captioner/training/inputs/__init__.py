"""What training shows the model: batches of photos with their captions, cached features, photo files, and views."""
