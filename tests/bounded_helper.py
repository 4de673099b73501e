"""What a child process of the tests runs."""

import time


def slowly(text: str, seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return text
