"""See, query and mend the data in the browser, safely."""
