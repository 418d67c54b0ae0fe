"""The console page and the browser client: files that ``app/web/pages.py`` serves as they are."""
