"""`sightword table`: runs that differ in a setting, compared on the same items with seeds and intervals."""
