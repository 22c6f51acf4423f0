"""The studio: browse, query and edit the data in a browser.

The pages are data, without HTTP: `overview`, `rows`, `row`, `changes`, `export`, `query`, `moves` and `day`, on
`tables`, `filters`, `cells` and `transactions`. `app` has their routes, `guard` checks each request first, `access`
chooses the role in the database, and `serve` runs the web server.
"""
