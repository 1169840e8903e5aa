"""How likely a caption is to be good: fitted on a dataset at export, measured, and described in the model card."""
