"""One Prefect task per unit of retry. The only place where kommo, store and blocks meet."""
