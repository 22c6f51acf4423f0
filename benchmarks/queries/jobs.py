"""The jobs that every client does, and the parameters of their calls."""

from __future__ import annotations

from typing import Any

JOBS = {
    1: "a user by clerk id with gym and graduations",
    2: "20 classes of a gym with gym, instructor, assets",
    3: "100 students with graduations",
    4: "insert one check-in returning it",
    5: "insert 1,000 check-ins",
    6: "50 check-ins of a member between two dates",
    7: "newest 20 notifications for a recipient",
    8: "10,000 users, all 22 columns",
    9: "20 classes with assets and instructor, and their graduations",
}
WRITES = {4, 5}
ROWS = [{"user_id": number + 1, "class_id": number % 100 + 1, "date": "2030-01-01"} for number in range(1000)]


def user(number: int) -> int:
    return number * 7919 % 20000 + 1


def clerk(number: int) -> str:
    return f"user_{user(number)}"


def gym(number: int) -> int:
    return user(number) % 100 + 1


def one_row(number: int) -> dict[str, Any]:
    return {"user_id": user(number), "class_id": user(number) % 2000 + 1, "date": "2030-01-01"}
