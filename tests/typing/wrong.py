# pyright: strict
"""Code with type errors: both checkers report the lines marked `# wrong`, and no others. It is never run."""

from datetime import date, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from tatame_db import AsyncDatabase, Database, Read, insert_many, query, read, update_many, upsert
from tatame_db.schema import AppStore, Asset, Checkin, Class, Graduation, Gym, Notification, Role, User, Version

# A required column is missing.
User()  # wrong
User(email="ana@gym.example")  # wrong
Gym()  # wrong
Gym(name="Alliance", address="Rua A, 1")  # wrong
Role()  # wrong

# A name is misspelled, or the plan's own spelling of it.
User(clerk_user_idd="user_ana")  # wrong
User(clerk_user_id="user_ana", clerkUserId="user_ana")  # wrong
User(clerk_user_id="user_ana", gymId=1)  # wrong
Checkin(class_id=1, user=None, data="2026-03-01")  # wrong

# Columns are keyword-only.
User("user_ana")  # wrong
Role("STUDENT")  # wrong
Gym("Alliance", "Rua A, 1", "2015-03-01")  # wrong
Version("1.0.0")  # wrong
AppStore("ios")  # wrong
Class("MONDAY")  # wrong
Graduation("blue")  # wrong
Asset("Armbar")  # wrong
Checkin(1, 2)  # wrong
Notification(["1"])  # wrong

# A value has another type.
User(clerk_user_id=1)  # wrong
User(clerk_user_id=None)  # wrong
User(clerk_user_id="user_ana", gym_id="1")  # wrong
User(clerk_user_id="user_ana", approved_at="2026-03-01")  # wrong
User(clerk_user_id="user_ana", gym="Alliance")  # wrong
User(clerk_user_id="user_ana", managed_gyms=[])  # wrong
Gym(name="Alliance", address="Rua A, 1", since=date(2015, 3, 1))  # wrong
Gym(name="Alliance", address="Rua A, 1", since="2015-03-01", members=[1])  # wrong
Graduation(user_id=None)  # wrong
Graduation(user_id=1, degree="second")  # wrong
Checkin(date=datetime(2026, 3, 1))  # wrong
Notification(recipients="1")  # wrong
Notification(recipients=[1])  # wrong
Role(id="STUDENT", created_at=None)  # wrong


def assignments(user: User, gym: Gym, graduation: Graduation, class_: Class, notification: Notification) -> None:
    user.id = None  # wrong
    user.clerk_user_id = None  # wrong
    user.created_at = None  # wrong
    user.role = 1  # wrong
    user.gym = user  # wrong
    user.checkins = None  # wrong
    gym.name = None  # wrong
    gym.since = date(2015, 3, 1)  # wrong
    gym.members.append(gym)  # wrong
    graduation.user = None  # wrong
    graduation.user_id = None  # wrong
    class_.start = 18  # wrong
    class_.instructor = gym  # wrong
    notification.recipients = [1]  # wrong
    notification.viewed_by = ("1", "2")  # wrong


def reading(user: User, gym: Gym, class_: Class, notification: Notification) -> None:
    print(user.emial)  # wrong
    print(user.clerkUserId)  # wrong
    print(gym.member)  # wrong
    print(class_.begin)  # wrong
    print(user.gym.name)  # wrong
    print(user.email.lower())  # wrong
    print(len(notification.recipients))  # wrong


def questions(session: Session) -> None:
    select(User.clerk_user_idd)  # wrong
    select(User).where(User.gymm_id == 1)  # wrong
    select(User).options(selectinload(User.gyms))  # wrong
    print(session.scalars(select(User)).one().emial)  # wrong
    number: int = session.scalars(select(User.clerk_user_id)).one()  # wrong
    gym: Gym = session.scalars(select(User)).one()  # wrong
    print(number, gym)


@query
def find_user(clerk_user_id: str) -> Read[User]:
    return read(User).where(User.clerk_user_id == clerk_user_id).load(User.gym)


def reads(database: Database, asynchronous: AsyncDatabase) -> None:
    find_user.first(database)  # wrong
    find_user.first(database, clerk_user_id=1)  # wrong
    find_user.first(database, clerkUserId="user_ana")  # wrong
    find_user.first(1, clerk_user_id="user_ana")  # wrong
    find_user.one(asynchronous, "user_ana").email  # wrong
    print(find_user.one(database, "user_ana").emial)  # wrong
    print(find_user.first(database, "user_ana").email)  # wrong
    print(find_user.one(database, "user_ana").gym.name)  # wrong
    read("users")  # wrong
    read(User).load("gym")  # wrong
    read(User).limit("20")  # wrong
    read(User).where(gym_id=1)  # wrong
    read(User).where(True)  # wrong
    read(User).page("2", size=20)  # wrong
    read(User).page(2)  # wrong
    read(User).after(Gym(name="Alliance", address="Rua A, 1", since="2015-03-01"))  # wrong
    find_user.count(database)  # wrong
    find_user.exists(database, 1)  # wrong
    read(User.gym).all(database)  # wrong
    read(User).where(User.id).columns("id")  # wrong


def writes(database: Database) -> None:
    insert_many(Checkin, [1])  # wrong
    insert_many(Checkin, [User(clerk_user_id="user_ana")])  # wrong
    insert_many(Checkin, [Checkin(user_id=1), User(clerk_user_id="user_ana")])  # wrong
    insert_many(Checkin, read(User).all(database))  # wrong
    insert_many(Checkin, [Checkin(user_id=1)], returning=User)  # wrong
    insert_many(Checkin, {"user_id": 1})  # wrong
    upsert(User, [Gym(name="", address="", since="")], by=[User.id])  # wrong
    upsert(User, [User(clerk_user_id="user_ana")], by=[User.id], returning=Gym)  # wrong
    update_many(User, read(Gym).all(database), by=[User.id])  # wrong
    insert_many(Checkin, Checkin(user_id=1))  # wrong
    insert_many(Checkin, [Checkin(user_id=1)], returning="id")  # wrong
    upsert(User, [User(clerk_user_id="user_ana")])  # wrong
    upsert(User, [User(clerk_user_id="user_ana")], by="clerk_user_id")  # wrong
    update_many(User, [User(clerk_user_id="user_ana")])  # wrong
    update_many(User, [User(clerk_user_id="user_ana")], by="clerk_user_id")  # wrong
    update_many(User, [{1: "id"}], by=[User.id])  # wrong
    update_many(User, [{"id": 1}], by=[User.id], returning="id")  # wrong
    print(update_many(User, [{"id": 1}], by=[User.id]).run(database)[0])  # wrong
    print(insert_many(Checkin, [Checkin(user_id=1)]).run(database)[0])  # wrong
