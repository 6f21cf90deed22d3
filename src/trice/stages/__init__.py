"""The stages of the loop between questions and report, one module each; training is in `trice.training`."""
