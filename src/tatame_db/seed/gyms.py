"""Gyms, the first ones with names and addresses of their own."""

from __future__ import annotations

from tatame_db.schema import Gym
from tatame_db.seed.chance import Chance
from tatame_db.seed.plan import SeedPlan, days

_GYMS = [
    ("Aurora Jiu-Jitsu", "Rua das Acácias, 120 - Vila Aurora, São Paulo - SP"),
    ("Tatame do Mar", "Avenida da Praia, 87 - Enseada, Florianópolis - SC"),
    ("Academia Três Irmãos", "Rua São João, 455 - Centro, Belo Horizonte - MG"),
    ("Guará Jiu-Jitsu Clube", "Quadra 8, Conjunto B, 14 - Guará, Brasília - DF"),
    ("Escola Pé de Serra", "Rua da Estação, 33 - Alto da Serra, Petrópolis - RJ"),
    ("Sertão Grappling", "Travessa Padre Antônio, 210 - Juazeiro, Petrolina - PE"),
    ("Equipe Pinhão", "Rua das Araucárias, 901 - Água Verde, Curitiba - PR"),
    ("Igarapé Jiu-Jitsu", "Avenida do Açaí, 76 - Nazaré, Belém - PA"),
]


def gyms(plan: SeedPlan) -> list[Gym]:
    """Make the gyms with their ids, and without managers."""
    return [_gym(plan, number) for number in range(plan.gyms)]


def _gym(plan: SeedPlan, number: int) -> Gym:
    chance = Chance(plan.random_seed, "gyms", number)
    name, address = _GYMS[number % len(_GYMS)]
    branch = number // len(_GYMS) + 1
    # One gym a day in the app's first month.
    joined = plan.launch + days(min(number, 30))
    return Gym(
        id=number + 1,
        name=name if branch == 1 else f"{name} - Unidade {branch}",
        address=address,
        logo=f"https://files.tatame.example/logos/{number + 1}.png" if chance.under(0.7) else None,
        since=(plan.launch - days(chance.number(200, 25 * 365))).isoformat(),
        created_at=chance.moment(joined, joined),
    )
