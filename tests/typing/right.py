# pyright: strict
"""Code that both type checkers accept, with exactly these types. It is never run."""

from datetime import datetime
from typing import assert_type

from sqlalchemy import Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, joinedload, selectinload

from tatame_db import AsyncDatabase, Database, Read, insert_many, query, read, update_many, upsert
from tatame_db.queries.write import Upserted
from tatame_db.schema import (
    AppStore,
    Asset,
    Attachment,
    Checkin,
    Class,
    Graduation,
    Gym,
    Notification,
    Role,
    User,
    Version,
)

# Each model with its required columns alone, and with all columns.
Role(id="STUDENT")
Version()
AppStore()
Gym(name="Alliance", address="Rua A, 1", since="2015-03-01")
User(clerk_user_id="user_ana")
Graduation(user_id=1)
Class()
Asset()
Attachment()
Checkin()
Notification()

ana = User(clerk_user_id="user_ana", email=None, role="STUDENT", gym_id=1, approved_at=datetime(2026, 3, 1))
gym = Gym(id=1, name="Alliance", address="Rua A, 1", since="2015-03-01", manager=ana, members=[ana])
class_ = Class(gym=gym, instructor=ana, creator=ana, day="MONDAY", start="18:00", end="19:30", deleted_at=None)
Role(id="MANAGER", users=[ana], created_at=datetime(2026, 3, 1))
Version(app_version="1.0.0", disabled_at=datetime(2026, 3, 1))
AppStore(store="ios", url="https://apps.example")
Graduation(user=ana, belt="blue", degree=2, modality="BJJ")
Asset(class_=class_, title="Armbar", content="https://video.example", type="video", valid_until=datetime(2026, 3, 1))
Attachment(class_=class_, file_name="rules.pdf", file_url="https://file.example", file_type="pdf", file_size=1024)
Checkin(user=ana, class_=class_, date="2026-03-01")
Notification(sender=ana, recipients=["1", "2"], viewed_by=[], channel="push", status="sent", sent_at=None)

ana.email = None
ana.gym = None
gym.members.append(ana)
gym.manager = ana


def columns(
    role: Role,
    version: Version,
    store: AppStore,
    gym: Gym,
    user: User,
    graduation: Graduation,
    class_: Class,
    asset: Asset,
    attachment: Attachment,
    checkin: Checkin,
    notification: Notification,
) -> None:
    assert_type(role.id, str)
    assert_type(role.created_at, datetime)
    assert_type(version.id, int)
    assert_type(version.app_version, str | None)
    assert_type(version.created_at, datetime)
    assert_type(version.disabled_at, datetime | None)
    assert_type(store.id, int)
    assert_type(store.store, str | None)
    assert_type(store.url, str | None)
    assert_type(store.created_at, datetime)
    assert_type(store.disabled_at, datetime | None)
    assert_type(gym.id, int)
    assert_type(gym.name, str)
    assert_type(gym.address, str)
    assert_type(gym.logo, str | None)
    assert_type(gym.manager_id, int | None)
    assert_type(gym.since, str)
    assert_type(gym.created_at, datetime)
    assert_type(user.id, int)
    assert_type(user.clerk_user_id, str)
    assert_type(user.email, str | None)
    assert_type(user.first_name, str | None)
    assert_type(user.last_name, str | None)
    assert_type(user.profile_picture, str | None)
    assert_type(user.birth, str | None)
    assert_type(user.birth_day, str | None)
    assert_type(user.gender, str | None)
    assert_type(user.phone, str | None)
    assert_type(user.instagram, str | None)
    assert_type(user.role, str | None)
    assert_type(user.gym_id, int | None)
    assert_type(user.expo_push_token, str | None)
    assert_type(user.customer_id, str | None)
    assert_type(user.subscription_id, str | None)
    assert_type(user.plan, str | None)
    assert_type(user.approved_at, datetime | None)
    assert_type(user.denied_at, datetime | None)
    assert_type(user.migrated_at, datetime | None)
    assert_type(user.deleted_at, datetime | None)
    assert_type(user.created_at, datetime)
    assert_type(graduation.id, int)
    assert_type(graduation.user_id, int)
    assert_type(graduation.belt, str | None)
    assert_type(graduation.degree, int | None)
    assert_type(graduation.modality, str | None)
    assert_type(graduation.created_at, datetime)
    assert_type(class_.id, int)
    assert_type(class_.gym_id, int | None)
    assert_type(class_.instructor_id, int | None)
    assert_type(class_.created_by, int | None)
    assert_type(class_.day, str | None)
    assert_type(class_.start, str | None)
    assert_type(class_.end, str | None)
    assert_type(class_.modality, str | None)
    assert_type(class_.description, str | None)
    assert_type(class_.created_at, datetime)
    assert_type(class_.deleted_at, datetime | None)
    assert_type(asset.id, int)
    assert_type(asset.class_id, int | None)
    assert_type(asset.title, str | None)
    assert_type(asset.content, str | None)
    assert_type(asset.type, str | None)
    assert_type(asset.valid_until, datetime | None)
    assert_type(asset.created_at, datetime)
    assert_type(attachment.id, int)
    assert_type(attachment.class_id, int | None)
    assert_type(attachment.file_name, str | None)
    assert_type(attachment.file_url, str | None)
    assert_type(attachment.file_type, str | None)
    assert_type(attachment.file_size, int | None)
    assert_type(attachment.created_at, datetime)
    assert_type(checkin.id, int)
    assert_type(checkin.user_id, int | None)
    assert_type(checkin.class_id, int | None)
    assert_type(checkin.date, str | None)
    assert_type(checkin.created_at, datetime)
    assert_type(notification.id, int)
    assert_type(notification.sent_by, int | None)
    assert_type(notification.title, str | None)
    assert_type(notification.content, str | None)
    assert_type(notification.channel, str | None)
    assert_type(notification.status, str | None)
    assert_type(notification.recipients, list[str] | None)
    assert_type(notification.viewed_by, list[str] | None)
    assert_type(notification.sent_at, datetime | None)
    assert_type(notification.created_at, datetime)


def relations(
    role: Role,
    gym: Gym,
    user: User,
    graduation: Graduation,
    class_: Class,
    asset: Asset,
    attachment: Attachment,
    checkin: Checkin,
    notification: Notification,
) -> None:
    assert_type(role.users, list[User])
    assert_type(user.role_, Role | None)
    assert_type(user.gym, Gym | None)
    assert_type(user.managed_gyms, list[Gym])
    assert_type(user.graduations, list[Graduation])
    assert_type(user.checkins, list[Checkin])
    assert_type(user.instructed_classes, list[Class])
    assert_type(user.created_classes, list[Class])
    assert_type(user.sent_notifications, list[Notification])
    assert_type(gym.manager, User | None)
    assert_type(gym.members, list[User])
    assert_type(gym.classes, list[Class])
    assert_type(graduation.user, User)
    assert_type(class_.gym, Gym | None)
    assert_type(class_.instructor, User | None)
    assert_type(class_.creator, User | None)
    assert_type(class_.assets, list[Asset])
    assert_type(class_.attachments, list[Attachment])
    assert_type(class_.checkins, list[Checkin])
    assert_type(asset.class_, Class | None)
    assert_type(attachment.class_, Class | None)
    assert_type(checkin.user, User | None)
    assert_type(checkin.class_, Class | None)
    assert_type(notification.sender, User | None)


def questions(session: Session) -> None:
    whole = select(User).where(User.clerk_user_id == "user_ana").options(selectinload(User.gym).joinedload(Gym.manager))
    assert_type(whole, Select[User])
    assert_type(session.scalars(whole).one(), User)
    assert_type(session.scalars(whole).first(), User | None)
    assert_type(session.get(Gym, 1), Gym | None)

    named = select(User.clerk_user_id, User.email, User.created_at).options(joinedload(User.role_))
    assert_type(named, Select[str, str | None, datetime])
    for clerk_user_id, email, created_at in session.execute(named):
        assert_type(clerk_user_id, str)
        assert_type(email, str | None)
        assert_type(created_at, datetime)

    viewed = session.scalars(select(Notification.viewed_by).where(Notification.recipients.contains(["1"]))).all()
    for ids in viewed:
        assert_type(ids, list[str] | None)


def sync_sessions(database: Database) -> None:
    with database.session.begin() as session:
        assert_type(session.scalars(select(User)).all()[0].gym, Gym | None)


async def async_sessions(database: AsyncDatabase) -> None:
    async with database.session.begin() as session:
        assert_type((await session.scalars(select(User))).all()[0].gym, Gym | None)


@query
def find_user(clerk_user_id: str, day: str = "2026-03-01") -> Read[User]:
    last = read(User.graduations).where(Graduation.belt.is_not(None)).order_by(Graduation.created_at.desc()).limit(5)
    on_that_day = read(User.checkins).where(Checkin.date == day).load(Checkin.class_)
    return read(User).where(User.clerk_user_id == clerk_user_id).load(User.gym, last, on_that_day)


@query
def newest_checkins(user_id: int | None, last: Checkin | None, size: int = 20) -> Read[Checkin]:
    checkins = read(Checkin) if user_id is None else read(Checkin).where(Checkin.user_id == user_id)
    return checkins.order_by(Checkin.created_at.desc()).after(last).limit(size)


def sync_reads(database: Database, session: Session) -> None:
    assert_type(find_user.count(database, "user_ana"), int)
    assert_type(find_user.exists(session, clerk_user_id="user_ana"), bool)
    page = newest_checkins.all(database, 1, None)
    assert_type(newest_checkins.all(database, None, page[-1], size=5), list[Checkin])
    assert_type(read(User).order_by(User.id).page(2, size=20).all(database), list[User])
    assert_type(find_user.first(database, clerk_user_id="user_ana"), User | None)
    assert_type(find_user.one(session, "user_ana", day="2026-03-02"), User)
    assert_type(find_user.all(session.connection(), "user_ana"), list[User])
    assert_type(find_user.explain(database, "user_ana"), str)
    assert_type(read(Class).where(Class.day == bindparam("day")).limit(20).all(database, day="MONDAY"), list[Class])
    for checkin in read(Checkin).stream(database):
        assert_type(checkin, Checkin)


async def async_reads(database: AsyncDatabase, session: AsyncSession) -> None:
    assert_type(await find_user.count(database, "user_ana"), int)
    assert_type(await read(User).where(User.id == 1).exists(session), bool)
    assert_type(await find_user.first(database, clerk_user_id="user_ana"), User | None)
    assert_type(await find_user.one(session, "user_ana"), User)
    assert_type(await read(Class).load(Class.gym, read(Class.instructor).load(User.graduations)).all(database), list[Class])
    async for checkin in read(Checkin).stream(session):
        assert_type(checkin.created_at, datetime)


def sync_writes(database: Database, session: Session) -> None:
    rows = [Checkin(user_id=1), Checkin(user_id=2)]
    assert_type(insert_many(Checkin, rows).run(database), int)
    assert_type(insert_many(Checkin, [{"user_id": 1}], returning=Checkin).run(session), list[Checkin])
    assert_type(insert_many(Checkin, rows, returning=Checkin.id).run(database), list[int])
    assert_type(upsert(User, [ana], by=[User.clerk_user_id], returning=User.email).run(database), list[str | None])
    assert_type(insert_many(Checkin, [Checkin(user_id=1), {"user_id": 2}]).run(database), int)
    assert_type(update_many(User, read(User).all(database), by=[User.id], returning=User).run(database), list[User])
    changes: list[dict[str, object]] = [{"id": 1, "email": None}, {"id": 2, "phone": "+55"}]
    assert_type(upsert(User, [ana], by=[User.clerk_user_id]).run(database), Upserted)
    assert_type(update_many(User, changes, by=[User.id]).run(database), int)
    assert_type(update_many(User, [ana], by=[User.clerk_user_id, User.id], returning=User).run(session), list[User])
    assert_type(update_many(User, changes, by=[User.id], returning=User.phone).run(database), list[str | None])


async def async_writes(database: AsyncDatabase) -> None:
    assert_type(await insert_many(Checkin, [Checkin(user_id=1)], returning=Checkin.id).run(database), list[int])
    assert_type(await upsert(User, [ana], by=[User.clerk_user_id]).run(database), Upserted)
    assert_type(await update_many(User, [{"id": 1, "email": None}], by=[User.id]).run(database), int)
