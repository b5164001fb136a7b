"""The HTTP API and its page, over the predictors. Needs the extra `serve`."""
