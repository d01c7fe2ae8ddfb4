"""What continuous running can be told."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import MINYEAR, datetime, time, tzinfo
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Sequence[Day] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        validate_default=True,
        allow_inf_nan=False,
    )


def _is_number(value: object) -> bool:
    """Tells whether a value is a number, or a text that could be one."""
    if not isinstance(value, str | bytes):
        return isinstance(value, int | float)
    try:
        float(value)
    except ValueError:
        return False
    return True


def _no_number(like: str) -> BeforeValidator:
    """Returns a check that refuses numbers, which pydantic takes for seconds since midnight or since 1970.

    Args:
        like: what to write instead.
    """

    def checked(value: object) -> object:
        if _is_number(value):
            raise ValueError(f'a number is neither a time nor a date; write it in quotes: "{like}"')
        return value

    return BeforeValidator(checked)


LocalTime = Annotated[time, _no_number("22:00")]
"""A time of day. Without quotes YAML reads 22:00 as 1320."""

Moment = Annotated[datetime, _no_number("2026-12-20T00:00")]
"""A day, with or without a time. A number such as 20261220 would be a moment in 1970."""


class Window(_Section):
    """A time of some days in which chaos is allowed."""

    days: Annotated[Sequence[Day], Field(min_length=1)] = DAYS
    """On which days it begins."""

    begins: LocalTime
    """Local time, such as "22:00"."""

    ends: LocalTime
    """Local time; one that is not later than `begins` lies on the next day."""

    @field_validator("begins", "ends")
    @classmethod
    def _is_plain(cls, value: time) -> time:
        if value.tzinfo is not None:
            raise ValueError("times are local ones; schedule.timezone says of where")
        return value


class Freeze(_Section):
    """A time in which nothing happens, whatever the windows say."""

    begins: Moment
    """Local time, or with an offset."""

    ends: Moment
    """Local time, or with an offset; later than `begins`."""

    why: str = "frozen"
    """Is shown to whoever asks why nothing happens."""


def moved(moment: datetime, zone: tzinfo) -> datetime:
    """Returns an aware moment in another timezone; where no calendar goes that far, the last or first that it has."""
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return (datetime.min if moment.year == MINYEAR else datetime.max).replace(tzinfo=zone)


class Schedule(_Section):
    """When chaos is allowed."""

    timezone: str = "UTC"
    """A name of the IANA database, such as Europe/Berlin; days begin at its midnight."""

    windows: Sequence[Window] = ()
    """Always, if there are none."""

    freezes: Sequence[Freeze] = ()
    """Wins over windows."""

    @field_validator("timezone")
    @classmethod
    def _exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"unknown timezone {value!r}; allowed are names such as Europe/Berlin") from error
        return value

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        for freeze in self.freezes:
            if self.local(freeze.begins) >= self.local(freeze.ends):
                raise ValueError(f"a freeze begins {freeze.begins} and ends {freeze.ends}; it must end later")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The timezone."""
        return ZoneInfo(self.timezone)

    def local(self, moment: datetime) -> datetime:
        """Returns a moment in the schedule's timezone; one without an offset is taken for local time."""
        return moment.replace(tzinfo=self.zone) if moment.tzinfo is None else moved(moment, self.zone)


class Daily(_Section):
    """What a day may cost."""

    minutes: Annotated[float, Field(gt=0)] = 480.0
    """Minutes of campaigns, from the first gate to the last revert."""

    harm_min: Annotated[float, Field(gt=0)] = 60.0
    """Minutes in which an experiment had broken a promise; when they are used up, the day is over."""


class Ladder(_Section):
    """How far faults may reach, and how trust is earned: 0 a dry run, 1 one instance, 2 all that the limits allow."""

    begin: Annotated[int, Field(ge=0, le=2)] = 0
    """The rung of a cluster that was never run on."""

    highest: Annotated[int, Field(ge=0, le=2)] = 2
    """No promotion beyond it."""

    promote_after: Annotated[int, Field(ge=1)] = 3
    """Clean campaigns in a row that earn the next rung."""

    @model_validator(mode="after")
    def _begins_on_it(self) -> Self:
        if self.begin > self.highest:
            raise ValueError(f"begin is {self.begin}, above highest, {self.highest}")
        return self


class Retention(_Section):
    """What is kept, and for how long."""

    days: Annotated[float, Field(gt=0, le=36500)] = 90.0
    """Of journal entries and run folders; what is not clean, and the ledger of weaknesses, stay for ever."""

    runs: Annotated[int, Field(ge=1)] = 200
    """Newest run folders of this service that are kept."""


def is_loopback(host: str) -> bool:
    """Tells whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Http(_Section):
    """The service's own web address."""

    host: str = "127.0.0.1"
    """Where to listen; anything but loopback needs a `token_file` of your own."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8321
    """0: any free port."""

    token_file: Path | None = None
    """Holds the token that callers must show; one is made in the state folder if absent."""

    hosts: Sequence[str] = ()
    """Names beside loopback under which callers may reach it (the Host header)."""

    release_on_resolved: bool = False
    """Whether alerts that have engaged the lever release it when they are all resolved; else a person does."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if not is_loopback(self.host) and self.token_file is None:
            raise ValueError(f"host {self.host!r} can be reached from elsewhere; that needs a token_file")
        return self


class ServiceSettings(_Section):
    """Continuous running."""

    campaign_min: Annotated[float, Field(gt=0)] = 60.0
    """Minutes of one campaign; fewer where a window closes or the day's budget ends before."""

    pause_s: Annotated[float, Field(ge=0)] = 60.0
    """Between two campaigns."""

    remember_days: Annotated[float, Field(ge=0)] = 7.0
    """For how long what experiments have shown counts in later campaigns; then it is tried again."""

    least_free_mib: Annotated[float, Field(ge=0)] = 512.0
    """Nothing starts with less free on the disk of the state folder."""

    schedule: Schedule = Schedule()
    daily: Daily = Daily()
    ladder: Ladder = Ladder()
    retention: Retention = Retention()
    http: Http = Http()
