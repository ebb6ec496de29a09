"""The metric of strangers.yaml."""


def strangers(prompts: list[str], answers: list[str]) -> list[float]:
    """How many words of each answer are not in its prompt."""
    return [
        float(len(set(answer.split()) - set(prompt.split())))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
