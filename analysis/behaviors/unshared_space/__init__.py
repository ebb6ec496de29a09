"""Attribution for two models that share no activation space: each one's shift is measured on its own."""
