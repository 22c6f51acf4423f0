-- Check-ins of each week, one line per gym.
-- chart: line x=week y=checkins series=gym
SELECT date_trunc('week', c.created_at)::date AS week, g.name AS gym, count(*) AS checkins
FROM checkins c
JOIN users u ON u.id = c.user_id
JOIN gyms g ON g.id = u.gym_id
GROUP BY week, g.id
ORDER BY week, gym;
