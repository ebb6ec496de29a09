"""Attribution for two models that share no activation space: each model's behavior is attributed separately."""
