"""The console page and the browser client: files that ``app/web/operate/pages.py`` serves as they are."""
