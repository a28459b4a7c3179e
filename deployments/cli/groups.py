"""The groups in which `kommo --help` shows its commands, so that a newcomer sees where to begin."""

from typing import Any

from cyclopts import App, Group

_GROUPS: dict[str, tuple[str, ...]] = {
    "Begin": ("demo", "setup", "doctor", "sandbox"),
    "Accounts and keys": ("connect", "disconnect", "refresh", "keys", "org"),
    "Read and look": ("sync", "snapshot", "records", "status"),
    "Webhooks, events, actions": ("webhooks", "backlog", "events", "action"),
    "Run it as a service": (
        "serve", "deploy", "gateway", "automations", "db", "budget", "retention",
    ),
}  # fmt: skip
_GROUP_OF = {
    command: group
    for group, commands in (
        (Group(title, sort_key=place), commands) for place, (title, commands) in enumerate(_GROUPS.items())
    )
    for command in commands
}


class GroupedApp(App):
    """An app whose commands are put into their group by their name; one that is in none is shown after them."""

    def command(self, obj: Any = None, name: Any = None, **options: Any) -> Any:  # noqa: ANN401 - cyclopts'
        """Register a command, as `App.command` does."""
        if isinstance(obj, App):
            if group := _GROUP_OF.get(obj.name[0]):
                obj.group = group
        elif group := _GROUP_OF.get(name):
            options.setdefault("group", group)
        return super().command(obj, name, **options)
