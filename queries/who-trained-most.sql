-- The twenty members with the most check-ins.
-- chart: bar x=member y=checkins
SELECT concat_ws(' ', u.first_name, u.last_name) AS member, g.name AS gym, count(*) AS checkins
FROM checkins c
JOIN users u ON u.id = c.user_id
JOIN gyms g ON g.id = u.gym_id
GROUP BY u.id, g.id
ORDER BY checkins DESC, member
LIMIT 20;
