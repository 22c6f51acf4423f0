# pyright: strict, reportUnusedExpression=false
"""Code with the factories of the test kit: both checkers report the lines marked `# wrong`, and no others."""

from tatame_db.schema import Gym, User
from tatame_db.testing.factories import a_class, a_gym, a_role, a_user, a_version

gyms: list[Gym] = [a_gym(), a_gym(name="Academia")]
found = [a_user(gym=gyms[0], email=None)]
users: list[User] = found
a_class(gym_id=1), a_role(), a_version(app_version="1.0.0")

a_gym(nmae="Academia")  # wrong
a_user(gym="Academia")  # wrong
a_user("Ana")  # wrong
a_version(app_version=1)  # wrong
