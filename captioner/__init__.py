"""Train image captioners: CNN encoder, LSTM decoder, soft attention."""
